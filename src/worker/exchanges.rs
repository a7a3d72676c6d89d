//! The exchanges of a worker, by the ids of their streams.

use crate::proxy::ExchangeId;

/// Values in the order of their ids. The proxy assigns ids in ascending order, so a new value mostly goes to the end.
pub struct Exchanges<T>(Vec<(ExchangeId, T)>);

impl<T> Default for Exchanges<T> {
    fn default() -> Self {
        Exchanges(Vec::new())
    }
}

impl<T> Exchanges<T> {
    /// Returns whether the table has no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the index of the value with this id, or as an error the index at which to insert it.
    fn index(&self, id: ExchangeId) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if *last >= id => self.0.binary_search_by_key(&id, |(known, _)| *known),
            _ => Err(self.0.len()),
        }
    }

    /// Inserts a value. Returns the value that it replaces, if one had the same id.
    pub fn insert(&mut self, id: ExchangeId, value: T) -> Option<T> {
        match self.index(id) {
            Ok(index) => self.0.get_mut(index).map(|(_, known)| core::mem::replace(known, value)),
            Err(index) => {
                self.0.insert(index, (id, value));
                None
            }
        }
    }

    /// Returns whether a value has this id.
    pub fn has(&self, id: ExchangeId) -> bool {
        self.index(id).is_ok()
    }

    /// Returns the value with this id.
    pub fn get_mut(&mut self, id: ExchangeId) -> Option<&mut T> {
        let index = self.index(id).ok()?;
        self.0.get_mut(index).map(|(_, value)| value)
    }

    /// Removes and returns the value with this id.
    pub fn remove(&mut self, id: ExchangeId) -> Option<T> {
        let index = self.index(id).ok()?;
        Some(self.0.remove(index).1)
    }

    /// Iterates over all values, in the order of their ids.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ExchangeId, &mut T)> {
        self.0.iter_mut().map(|(id, value)| (*id, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn values_are_found_by_id_in_any_order_of_insertion() {
        let mut table = Exchanges::default();
        for id in [5, 9, 2, 7] {
            assert_eq!(table.insert(ExchangeId(id), id * 10), None);
        }
        assert_eq!(table.insert(ExchangeId(7), 71), Some(70));
        assert_eq!(table.get_mut(ExchangeId(9)), Some(&mut 90));
        assert_eq!((table.remove(ExchangeId(2)), table.remove(ExchangeId(2))), (Some(20), None));
        assert_eq!(table.get_mut(ExchangeId(11)), None);
        let remaining: Vec<_> = table.iter_mut().map(|(id, value)| (id.0, *value)).collect();
        assert_eq!(remaining, [(5, 50), (7, 71), (9, 90)]);
        assert!(!table.is_empty());
    }
}
