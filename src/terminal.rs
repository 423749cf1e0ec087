//! Text from outside on its way to a terminal.

use std::fmt;

/// Whether a character could do more in a terminal than be seen: control characters of both ranges, line separators that
/// are no line feed, and the marks that reverse or embed the direction of text.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Shows text from outside with all harmful characters, line feeds among them, as `\u{1b}`, and cut to `chars_max`
/// characters of the original.
pub fn shown(text: &str, chars_max: usize) -> impl fmt::Display + '_ {
    Shown { text, chars_max }
}

struct Shown<'a> {
    text: &'a str,
    chars_max: usize,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut chars = self.text.chars();
        for c in chars.by_ref().take(self.chars_max) {
            match is_harmful(c) {
                true => write!(f, "{}", c.escape_unicode())?,
                false => f.write_char(c)?,
            }
        }
        match chars.count() {
            0 => Ok(()),
            more => write!(f, "… ({more} more characters)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_harmful_gets_through() {
        let hostile = "a\u{1b}[2J\u{7}\r\n\u{9b}1m\u{7f}\u{202e}b\u{2028}ü🐀";
        let text = shown(hostile, 100).to_string();
        assert!(!text.chars().any(is_harmful), "{text:?}");
        assert_eq!(
            text,
            r"a\u{1b}[2J\u{7}\u{d}\u{a}\u{9b}1m\u{7f}\u{202e}b\u{2028}ü🐀"
        );
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(shown("äbcd", 4).to_string(), "äbcd");
        assert_eq!(shown("äbcd", 3).to_string(), "äbc… (1 more characters)");
    }
}
