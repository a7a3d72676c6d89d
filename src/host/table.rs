//! Things by the ids of contexts, which the proxy hands out in ascending order.

/// In the order of their ids. A new one mostly goes to the end, and one is found by halving.
pub struct Table<T>(Vec<(u32, T)>);

impl<T> Table<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Table(Vec::new())
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if *last >= id => self.0.binary_search_by_key(&id, |(known, _)| *known),
            _ => Err(self.0.len()),
        }
    }

    /// Puts one in, in place of another of the same id.
    pub fn insert(&mut self, id: u32, value: T) {
        match self.place(id) {
            Ok(place) => {
                self.0.remove(place);
                self.0.insert(place, (id, value));
            }
            Err(place) => self.0.insert(place, (id, value)),
        }
    }

    /// The one with this id.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        let place = self.place(id).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// Takes the one with this id out.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let place = self.place(id).ok()?;
        Some(self.0.remove(place).1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().map(|(id, value)| (*id, value))
    }
}
