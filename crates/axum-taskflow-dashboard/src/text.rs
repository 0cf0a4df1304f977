//! Numbers, times and foreign text as people read them.

use std::time::Duration;

use axum_taskflow_core::Timestamp;

/// `48 ms`, `1.4 s`, `2 m 05 s`, `3 h 07 m`, `2 d 04 h`. The script writes running times the same way.
pub(crate) fn duration(duration: Duration) -> String {
    let (ms, s) = (duration.as_millis(), duration.as_secs());
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, ms % 1_000 / 100),
        60..3_600 => format!("{} m {:02} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {:02} m", s / 3_600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3_600 % 24),
    }
}

/// `just now`, `4 min ago`, `in 10 s`.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        return format!("in {}", span(at.since(now)));
    }
    match now.since(at) {
        since if since < Duration::from_secs(1) => "just now".to_owned(),
        since => format!("{} ago", span(since)),
    }
}

fn span(span: Duration) -> String {
    match span.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min", s / 60),
        s @ 3_600..86_400 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// `2026-11-22 02:51:02 UTC`.
pub(crate) fn absolute(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// `02:51:02.137`, for log lines.
pub(crate) fn time_of_day(at: Timestamp) -> String {
    let ms = at.as_unix_ms() % 1_000;
    let text = at.to_string();
    format!("{}.{ms:03}", text.get(11..19).unwrap_or(&text))
}

/// `0`, `12,345`, `123k`, `1.2M`: exact as long as it is short.
pub(crate) fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..100_000 => format!("{},{:03}", n / 1_000, n % 1_000),
        100_000..1_000_000 => format!("{}k", n / 1_000),
        1_000_000..100_000_000 => format!("{}.{}M", n / 1_000_000, n / 100_000 % 10),
        _ => format!("{}M", n / 1_000_000),
    }
}

/// Without what would change how the text around it looks: control characters, terminal escapes, characters that
/// turn the direction of writing. Line breaks and tabs stay.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => clean.push(char),
            _ if char.is_control() || is_bidi(char) => {}
            _ => clean.push(char),
        }
    }
    clean
}

/// The rest of a terminal escape (ECMA-48): `[31m`, `]8;;…` up to its end, or one character.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            while let Some(char) = chars.next_if(|char| matches!(char, '\u{20}'..='\u{7e}')) {
                if matches!(char, '\u{40}'..='\u{7e}') {
                    return;
                }
            }
        }
        Some(']') => {
            for char in chars.by_ref() {
                // A string ends with BEL or ESC \; a line break means that it was none.
                match char {
                    '\u{7}' | '\n' => return,
                    '\u{1b}' => {
                        chars.next_if_eq(&'\\');
                        return;
                    }
                    _ => {}
                }
            }
        }
        Some('\u{40}'..='\u{5f}') => {
            chars.next();
        }
        _ => {}
    }
}

fn is_bidi(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a text on one line: at most `max` characters, then `…`.
pub(crate) fn head(text: &str, max: usize) -> String {
    // Enough for `max` characters even if many of them are blanks or are cleaned away; a message may be long.
    let part = match text.char_indices().nth(max.saturating_mul(4)) {
        Some((end, _)) => &text[..end],
        None => text,
    };
    let mut head = String::new();
    let cleaned = clean(part);
    for (n, word) in cleaned.split_whitespace().enumerate() {
        if n > 0 {
            head.push(' ');
        }
        head.push_str(word);
    }
    match head.char_indices().nth(max) {
        Some((end, _)) => {
            head.truncate(end);
            head.push('…');
        }
        None if part.len() < text.len() => head.push('…'),
        None => {}
    }
    head
}

/// A part of a JSON text that people can look at, and whether something is missing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Json {
    pub(crate) text: String,
    pub(crate) is_cut: bool,
}

/// JSON with an entry a line, at most `bytes_max` of it. Only blanks are added: numbers keep all their digits, which
/// reading them as numbers would not.
pub(crate) fn pretty_json(json: &str, bytes_max: usize) -> Json {
    let part = &json[..json.floor_char_boundary(bytes_max)];
    let mut text = String::with_capacity(part.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut chars = part.chars().peekable();
    let mut is_cut = part.len() < json.len();
    while let Some(char) = chars.next() {
        if text.len() > bytes_max.saturating_mul(2) {
            is_cut = true; // mostly brackets: their indents would grow without a bound
            break;
        }
        if in_string {
            text.push(char);
            match char {
                '\\' => text.extend(chars.next()),
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match char {
            '"' => {
                in_string = true;
                text.push(char);
            }
            '[' | '{' => {
                let end = if char == '[' { ']' } else { '}' };
                text.push(char);
                if chars.next_if_eq(&end).is_some() {
                    text.push(end);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            ']' | '}' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(char);
            }
            ',' => {
                text.push(char);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ if char.is_whitespace() => {}
            _ => text.push(char),
        }
    }
    if is_cut {
        text.push('…');
    }
    Json {
        text: clean(&text),
        is_cut,
    }
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    // Deeper levels share an indent, or a text of brackets would grow with the square of its length.
    text.extend(std::iter::repeat_n("  ", depth.min(20)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_at_each_size() {
        let read: Vec<String> = [
            0,
            48,
            999,
            1_449,
            59_999,
            60_000,
            125_000,
            11_220_000,
            187_200_000,
        ]
        .map(|ms| duration(Duration::from_millis(ms)))
        .into();

        assert_eq!(
            read,
            [
                "0 ms", "48 ms", "999 ms", "1.4 s", "59.9 s", "1 m 00 s", "2 m 05 s", "3 h 07 m",
                "2 d 04 h"
            ]
        );
    }

    #[test]
    fn times_are_told_from_now() {
        let now = Timestamp::from_unix_ms(1_795_300_000_123);
        let before = |s| now.saturating_sub(Duration::from_secs(s));

        assert_eq!(relative(now, now), "just now");
        assert_eq!(relative(before(12), now), "12 s ago");
        assert_eq!(relative(before(300), now), "5 min ago");
        assert_eq!(relative(before(90_000), now), "1 d ago");
        assert_eq!(
            relative(now.saturating_add(Duration::from_secs(10)), now),
            "in 10 s"
        );
        assert_eq!(absolute(now), "2026-11-21 22:26:40 UTC");
        assert_eq!(time_of_day(now), "22:26:40.123");
        assert_eq!(
            time_of_day(Timestamp::from_unix_ms(1_795_300_000_000)),
            "22:26:40.000"
        );
    }

    #[test]
    fn counts_are_exact_while_they_are_short() {
        let read: Vec<String> = [
            0,
            999,
            1_000,
            12_045,
            99_999,
            123_456,
            1_250_000,
            250_000_000,
        ]
        .map(count)
        .into();

        assert_eq!(
            read,
            [
                "0", "999", "1,000", "12,045", "99,999", "123k", "1.2M", "250M"
            ]
        );
    }

    #[test]
    fn escapes_and_control_characters_are_taken_out() {
        assert_eq!(clean("\u{1b}[1;31mred\u{1b}[0m\u{7}\r\n\tx"), "red\n\tx");
        assert_eq!(
            clean("\u{1b}]8;;http://evil\u{7}link\u{1b}]8;;\u{1b}\\ end"),
            "link end"
        );
        assert_eq!(clean("a\u{202e}b\u{2066}c\u{61c}d\u{0}"), "abcd");
        assert_eq!(clean("\u{1b}"), "");
        assert_eq!(clean("\u{1b}[31"), "");
    }

    #[test]
    fn a_head_is_one_line_of_bounded_length() {
        assert_eq!(head("one\n  two\tthree", 20), "one two three");
        assert_eq!(head("abcdef", 3), "abc…");
        assert_eq!(head("äöü", 3), "äöü");
        assert_eq!(head(&" ".repeat(1_000_000), 10), "…");
    }

    #[test]
    fn json_keeps_every_digit_and_every_character_of_its_strings() {
        let json = r#"[1152921504606846977,{"a":"x, {y}: \"z\"","b":[],"c":{}}]"#;

        let pretty = pretty_json(json, 1_000);

        assert_eq!(
            pretty.text,
            "[\n  1152921504606846977,\n  {\n    \"a\": \"x, {y}: \\\"z\\\"\",\n    \"b\": [],\n    \"c\": {}\n  }\n]"
        );
        assert!(!pretty.is_cut);
        assert_eq!(
            pretty.text.split_whitespace().collect::<String>(),
            json.split_whitespace().collect::<String>()
        );
    }

    #[test]
    fn json_of_nothing_but_brackets_stays_small() {
        let pretty = pretty_json(&"[".repeat(10_000_000), 10_000);

        assert!(pretty.is_cut);
        assert!(pretty.text.len() < 21_000, "{}", pretty.text.len());
    }

    #[test]
    fn json_that_was_cut_inside_a_string_is_shown_as_far_as_it_goes() {
        assert_eq!(pretty_json(r#"["abc\"#, 100).text, "[\n  \"abc\\");
        assert_eq!(pretty_json("[\"äää\"]", 4).text, "[\n  \"ä…");
    }
}
