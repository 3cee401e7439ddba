//! Where the next of five bytes lies.

/// A search of which what is known is kept: a text full of two of the bytes is not read again for
/// the other three each time.
pub(super) struct Stops<'t> {
    bytes: &'t [u8],
    likely: [u8; 3],
    rare: [u8; 2],
    /// Where the next likely one lies, or the end.
    next_likely: Option<usize>,
}

impl<'t> Stops<'t> {
    pub(super) const fn new(bytes: &'t [u8], (likely, rare): ([u8; 3], [u8; 2])) -> Self {
        Self { bytes, likely, rare, next_likely: None }
    }

    /// The next one from `at`, which never goes back.
    pub(super) fn next(&mut self, at: usize) -> Option<usize> {
        let rest = self.bytes.get(at..)?;
        let [one, two, three] = self.likely;
        let likely = match self.next_likely {
            Some(known) if at <= known => known,
            _ => memchr::memchr3(one, two, three, rest).map_or(self.bytes.len(), |next| at + next),
        };
        self.next_likely = Some(likely);
        let [four, five] = self.rare;
        let rare = memchr::memchr2(four, five, &self.bytes[at..likely]).map(|next| at + next);
        rare.or_else(|| (likely < self.bytes.len()).then_some(likely))
    }
}
