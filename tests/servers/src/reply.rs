//! One command and its reply, in Redis' own protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Asks over the server's Unix socket, which needs no certificate and meets no proxy.
pub(crate) fn ask(
    socket: &Path,
    password: Option<&str>,
    words: &[&str],
    deadline: Duration,
) -> io::Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(deadline))?;
    let mut stream = BufReader::new(stream);
    if let Some(password) = password {
        ask_over(&mut stream, &["AUTH", password])?;
    }
    ask_over(&mut stream, words)
}

fn ask_over(stream: &mut BufReader<UnixStream>, words: &[&str]) -> io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.get_mut().write_all(request.as_bytes())?;
    read(stream).map_err(|error| match error.kind() {
        // What a socket's timeout is called on Unix.
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no reply in time"),
        _ => error,
    })
}

/// A reply as text: an array has a line for each element, nothing at all is the empty text.
fn read(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let Some((kind, rest)) = line.trim_end().split_at_checked(1) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    match kind {
        "+" | ":" => Ok(rest.to_owned()),
        "-" => Err(io::Error::other(rest)),
        "$" => match length(rest)? {
            None => Ok(String::new()),
            Some(n_bytes) => {
                let mut text = vec![0; n_bytes + "\r\n".len()];
                stream.read_exact(&mut text)?;
                text.truncate(n_bytes);
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
        },
        "*" => {
            let n_elements = length(rest)?.unwrap_or(0);
            let elements: io::Result<Vec<String>> = (0..n_elements).map(|_| read(stream)).collect();
            Ok(elements?.join("\n"))
        }
        _ => Err(io::Error::other(format!("not a reply: {line:?}"))),
    }
}

/// A length, or `None` for the -1 of something that is not there.
fn length(text: &str) -> io::Result<Option<usize>> {
    if text == "-1" {
        return Ok(None);
    }
    match text.parse() {
        Ok(length) => Ok(Some(length)),
        Err(_) => Err(io::Error::other(format!("not a length: {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_reads_as_text() {
        let read = |bytes: &str| read(&mut bytes.as_bytes());

        assert_eq!(read("+PONG\r\n").unwrap(), "PONG");
        assert_eq!(read(":42\r\n").unwrap(), "42");
        assert_eq!(read("$4\r\na\r\nb\r\n").unwrap(), "a\r\nb");
        assert_eq!(read("$-1\r\n").unwrap(), "");
        assert_eq!(
            read("*3\r\n:1\r\n*2\r\n+b\r\n$0\r\n\r\n+c\r\n").unwrap(),
            "1\nb\n\nc"
        );
        assert_eq!(read("-ERR no\r\n").unwrap_err().to_string(), "ERR no");
        assert_eq!(read("").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
