-- While the slot moves to another node of a cluster, each of the two has a part of the keys. Both end a script here: one
-- for a key that it does not have, the other for several of which it does not have all. Else what is on the other node
-- would be taken for gone, and be made a second time.
redis.call('EXISTS', KEYS[1] .. ':none', KEYS[1] .. ':none2')
