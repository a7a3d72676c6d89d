//! Writes JSON field by field. A tree of values, or derived serializers, would take more of the module.

use crate::policy::document::write_json_text;

/// JSON of which a part is written.
pub struct JsonWriter(String);

impl JsonWriter {
    /// Returns the beginning of an object.
    pub fn object() -> Self {
        JsonWriter("{".to_owned())
    }

    /// Ends the object, and returns the JSON.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push_str("}\n");
        self.0.into_bytes()
    }

    /// Begins the next field, or the next item if `name` is empty. No field has an empty name.
    #[inline(never)]
    fn begin(&mut self, name: &str) {
        if !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
        if !name.is_empty() {
            write_json_text(name, &mut self.0);
            self.0.push(':');
        }
    }

    /// Opens an object.
    #[inline(never)]
    pub fn open(&mut self, name: &str) {
        self.begin(name);
        self.0.push('{');
    }

    /// Closes an object.
    #[inline(never)]
    pub fn close(&mut self) {
        self.0.push('}');
    }

    /// Opens a list.
    #[inline(never)]
    pub fn open_list(&mut self, name: &str) {
        self.begin(name);
        self.0.push('[');
    }

    /// Closes a list.
    #[inline(never)]
    pub fn close_list(&mut self) {
        self.0.push(']');
    }

    /// Writes a string.
    #[inline(never)]
    pub fn text(&mut self, name: &str, value: &str) {
        self.begin(name);
        write_json_text(value, &mut self.0);
    }

    /// Writes a whole number.
    #[inline(never)]
    pub fn number(&mut self, name: &str, value: u64) {
        self.begin(name);
        self.0.push_str(&value.to_string());
    }

    /// Writes a truth value.
    #[inline(never)]
    pub fn flag(&mut self, name: &str, value: bool) {
        self.begin(name);
        self.0.push_str(if value { "true" } else { "false" });
    }

    /// Writes hundredths of a percent as percent.
    #[inline(never)]
    pub fn percent(&mut self, name: &str, basis_points: u32) {
        self.number(name, (basis_points / 100).into());
        let rest = basis_points % 100;
        if rest > 0 {
            self.0.push('.');
            self.0.push(char::from(b'0' + (rest / 10) as u8));
            self.0.push(char::from(b'0' + (rest % 10) as u8));
        }
    }

    /// Writes the id of a worker.
    #[inline(never)]
    pub fn id(&mut self, name: &str, id: u64) {
        self.text(name, &format!("{id:016x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn fields_and_items_are_separated_and_texts_are_escaped() {
        let mut json = JsonWriter::object();
        json.text("a\"b", "<\\\n>");
        json.open_list("list");
        json.number("", 1);
        json.flag("", true);
        json.close_list();
        json.open("empty");
        json.close();
        for (name, share) in [("p", 10_000), ("q", 1_205), ("r", 50), ("s", 0)] {
            json.percent(name, share);
        }
        json.id("id", 255);
        let text = String::from_utf8(json.finish()).unwrap();
        let fields = r#""list":[1,true],"empty":{},"p":100,"q":12.05,"r":0.50,"s":0,"id":"00000000000000ff""#;
        assert_eq!(text, format!("{{\"a\\\"b\":\"<\\\\\\u000a>\",{fields}}}\n"));
    }
}
