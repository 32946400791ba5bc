//! The names of an answer's fields, spelled as the RFCs spell them.
//!
//! Names are compared without regard to case (RFC 9110 §5.1), but there are devices that don't; and
//! hyper writes them in lower case. What it wrote is changed here, letter by letter and in place.

/// Spellings that are not each word with a capital letter: RFC 6455 §11.3, RFC 9110 §11.6.1.
const UNUSUAL: [&[u8]; 2] = [b"Sec-WebSocket-", b"WWW-"];

/// Spells the names in the head at the beginning of `answer`. What is behind the head, and the
/// values, stay as they are.
pub(super) fn spell(answer: &mut [u8]) {
    let mut rest = answer;
    // Past the status line, then past each value.
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        rest = &mut rest[end + 1..];
        let name_end = rest.iter().position(|byte| matches!(byte, b':' | b'\r'));
        // The empty line at the end has no name.
        let Some(colon) = name_end.filter(|&end| rest[end] == b':') else { return };
        name(&mut rest[..colon]);
        rest = &mut rest[colon..];
    }
}

fn name(name: &mut [u8]) {
    let mut before = b'-';
    for byte in &mut *name {
        if before == b'-' {
            byte.make_ascii_uppercase();
        }
        before = *byte;
    }
    for usual in UNUSUAL {
        if let Some(start) = name.get_mut(..usual.len())
            && start.eq_ignore_ascii_case(usual)
        {
            start.copy_from_slice(usual);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_and_nothing_else() {
        for (name, usual) in [
            ("sec-websocket-accept", "Sec-WebSocket-Accept"),
            ("sec-websocket-extensions", "Sec-WebSocket-Extensions"),
            ("www-authenticate", "WWW-Authenticate"),
            ("x-content-type-options", "X-Content-Type-Options"),
            ("sec-websocket", "Sec-Websocket"),
            ("date", "Date"),
            ("a--b-", "A--B-"),
            ("", ""),
        ] {
            let answer = |name| format!("HTTP/1.1 200 ok\r\n{name}: a-b: c\r\n\r\na-b: c\r\n");
            let mut spelled = answer(name).into_bytes();
            spell(&mut spelled);
            assert_eq!(String::from_utf8(spelled).unwrap(), answer(usual));
        }
    }

    #[test]
    fn what_is_no_head_is_left_alone() {
        for other in ["", "HTTP/1.1 200 ok", "a: b", "\r\n\r\n", "HTTP/1.1 200 ok\r\na"] {
            let mut bytes = other.as_bytes().to_vec();
            spell(&mut bytes);
            assert_eq!(bytes, other.as_bytes());
        }
    }
}
