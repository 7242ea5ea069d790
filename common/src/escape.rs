//! Text of others, made fit for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Replaces control characters, but for line feeds and tabs, by their escapes. What a server sends could otherwise
/// move the cursor, hide lines, or make a terminal type.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_unfit = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_unfit) {
        return text.into();
    }
    let mut fit = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unfit(c) {
            // Writing to a string cannot fail.
            let _ = write!(fit, "{}", c.escape_default());
        } else {
            fit.push(c);
        }
    }
    fit.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_commands() {
        assert_eq!(escaped("sold_out é 🎉\n\tx"), "sold_out é 🎉\n\tx");
        assert_eq!(escaped("a\u{1b}[2Jb\r\u{7}\u{9b}31m\u{7f}"), "a\\u{1b}[2Jb\\r\\u{7}\\u{9b}31m\\u{7f}");
    }
}
