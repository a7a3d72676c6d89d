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

    /// Iterates over all values in the order of their ids, from the first with at least this id on, and then over those
    /// before it.
    pub fn iter_from(&mut self, first: ExchangeId) -> impl Iterator<Item = (ExchangeId, &mut T)> {
        let index = self.0.partition_point(|(id, _)| *id < first);
        // The index is at most the length.
        let (before, from) = self.0.split_at_mut_checked(index).unwrap_or_default();
        from.iter_mut().chain(before).map(|(id, value)| (*id, value))
    }
}

/// The looks of one worker at requests that other filters hold, in one tick.
pub struct Looks<'b> {
    left: &'b mut usize,
    /// The first request that gets no look in this tick. The next tick begins with it.
    pub next: Option<ExchangeId>,
}

impl<'b> Looks<'b> {
    /// Creates the looks of a worker. `left` is how many the tick still has.
    pub fn new(left: &'b mut usize) -> Self {
        Looks { left, next: None }
    }

    /// Takes a look at this request. Returns whether there is one left.
    pub fn take(&mut self, id: ExchangeId) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                *self.left = left;
                true
            }
            None => {
                self.next.get_or_insert(id);
                false
            }
        }
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
        let mut from =
            |first| table.iter_from(ExchangeId(first)).map(|(id, value)| (id.0, *value)).collect::<Vec<_>>();
        assert_eq!(from(0), [(5, 50), (7, 71), (9, 90)]);
        assert_eq!(from(6), [(7, 71), (9, 90), (5, 50)]);
        assert_eq!(from(10), from(0));
        assert!(!table.is_empty());
    }
}
