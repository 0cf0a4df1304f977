"""Fences such as ```rust,no_run are for the compiler, which checks every block; the page only needs `rust`."""

import re


def on_page_markdown(markdown, **_):
    return re.sub(r"^```rust,[a-z_,]+$", "```rust", markdown, flags=re.MULTILINE)
