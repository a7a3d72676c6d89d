//! Mutations of inputs: of any bytes, and of documents as trees, so that most of them stay JSON.

use serde_json::Value;

use super::FULL;

/// A pseudo-random number generator, SplitMix64. The same seed gives the same numbers.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, or 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        from.get(self.below(from.len()))
    }
}

/// Returns the input with a few bytes changed. `other` is another input of the same target.
pub fn bytes(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut input = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        match random.below(5) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => input.insert(at, random.number() as u8),
            3 => {
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = *[byte.wrapping_add(1), *byte ^ 1 << random.below(8), 0, 0xff][random.below(4)..]
                        .first()
                        .unwrap();
                }
            }
        }
    }
    input
}

/// Returns the input of the target `policy` with a few parts of its document changed. `None` if that is not JSON.
pub fn document(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let mut document: Value = serde_json::from_slice(&input[..end]).ok()?;
    let full: Value = serde_json::from_str(FULL).ok()?;
    for _ in 0..=random.below(3) {
        let places = places(&document);
        let place = random.pick(&places)?.clone();
        let twin = random.pick(&self::places(&full)).and_then(|place| full.pointer(place)).cloned();
        let own = random.pick(&places).and_then(|place| document.pointer(place)).cloned();
        change(&mut document, &place, [twin?, own?], random);
    }
    Some([document.to_string().as_bytes(), &input[end..]].concat())
}

/// Returns the JSON pointers of all values below this one.
fn places(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((place, value)) = open.pop() {
        match value {
            Value::Object(fields) => open.extend(fields.iter().map(|(key, value)| {
                (format!("{place}/{}", key.replace('~', "~0").replace('/', "~1")), value)
            })),
            Value::Array(items) => {
                open.extend(
                    items.iter().enumerate().map(|(index, value)| (format!("{place}/{index}"), value)),
                );
            }
            _ => {}
        }
        if !place.is_empty() {
            found.push(place);
        }
    }
    found
}

fn change(document: &mut Value, place: &str, others: [Value; 2], random: &mut Random) {
    let [twin, own] = others;
    let Some((parent, key)) = place.rsplit_once('/') else { return };
    let key = key.replace("~1", "/").replace("~0", "~");
    match (random.below(6), document.pointer_mut(parent)) {
        (0, Some(Value::Object(fields))) => drop(fields.remove(&key)),
        // The same value, or one from elsewhere, under another key that may be legal there.
        (1, Some(Value::Object(fields))) => {
            let keys: Vec<String> =
                twin.as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
            if let Some(other) = random.pick(&keys) {
                fields.insert(other.clone(), twin[other].clone());
            }
        }
        (0, Some(Value::Array(items))) => drop(items.remove(random.below(items.len()))),
        (1, Some(Value::Array(items))) => items.push(items[random.below(items.len())].clone()),
        (2, Some(Value::Array(items))) => {
            let (one, other) = (random.below(items.len()), random.below(items.len()));
            items.swap(one, other);
        }
        (3, Some(parent)) => set(parent, &key, twin),
        (4, Some(parent)) => set(parent, &key, own),
        (_, Some(Value::Object(fields))) => {
            let changed = scalar(&fields[&key], random);
            fields.insert(key, changed);
        }
        (_, Some(Value::Array(items))) => {
            let at = random.below(items.len());
            items[at] = scalar(&items[at], random);
        }
        _ => {}
    }
}

/// Returns a value much like this one.
fn scalar(value: &Value, random: &mut Random) -> Value {
    match value {
        Value::Bool(value) => Value::from(!value),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            [
                Value::from(number + 1.0),
                Value::from(number / 2.0),
                0.into(),
                1.into(),
                u32::MAX.into(),
                Value::from(number as i64),
            ][random.below(6)]
            .clone()
        }
        Value::String(text) => {
            let pool = ["", "*", "/", "0s", "1ms", "8784h", "GET", ".*", "é", "100", "a", "Host"];
            match random.below(4) {
                0 => text.repeat(2).into(),
                1 => text.chars().skip(1).collect::<String>().into(),
                2 => text.chars().rev().collect::<String>().into(),
                _ => pool[random.below(pool.len())].into(),
            }
        }
        other => other.clone(),
    }
}

fn set(parent: &mut Value, key: &str, value: Value) {
    match parent {
        Value::Object(fields) => drop(fields.insert(key.to_owned(), value)),
        Value::Array(items) => {
            if let Some(item) = key.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                *item = value;
            }
        }
        _ => {}
    }
}
