//! Makes text of strangers safe to print: a terminal obeys control characters, and shows text in another order after others.

/// Returns whether a terminal does something else with the character than to show it in its place.
fn is_active(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text with its control characters and those that change its direction as escapes, such as `\u{1b}`.
pub fn printable(text: &str) -> String {
    let escape = |character: char| match is_active(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Returns JSON with the same characters as escapes of JSON. Only its line breaks stay, which cannot be inside strings.
pub fn printable_json(json: &str) -> String {
    let escape = |character: char| match is_active(character) && character != '\n' {
        true => format!("\\u{:04x}", u32::from(character)),
        false => character.to_string(),
    };
    json.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "é\u{1b}[2J\r\n\u{9b}31m\u{7f}\u{202e}txt\u{2066}\u{200f}";

    #[test]
    fn what_a_terminal_would_obey_is_an_escape() {
        let shown = r"é\u{1b}[2J\r\n\u{9b}31m\u{7f}\u{202e}txt\u{2066}\u{200f}";
        assert_eq!(printable(HOSTILE), shown);
        assert_eq!(printable("日本 – v1 90 %"), "日本 – v1 90 %");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let json = printable_json(&serde_json::to_string_pretty(&[HOSTILE]).unwrap());
        assert!(!json.chars().any(|character| is_active(character) && character != '\n'));
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [HOSTILE]);
    }
}
