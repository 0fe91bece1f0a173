//! The bytes of a file in memory: pages that are shared between copies until they are written to, so that a copy of
//! the whole disk costs next to nothing and zeros cost nothing at all.

use std::sync::Arc;

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    len: usize,
    /// A page that nothing was written to, nor reserved, takes no room.
    pages: Vec<Option<Arc<Page>>>,
}

impl Image {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Pages that take room on the disk.
    pub fn pages(&self) -> usize {
        self.pages.iter().flatten().count()
    }

    /// How many pages writing or reserving `bytes` at `offset` would add.
    pub fn missing(&self, offset: usize, bytes: usize) -> usize {
        let touched = touched(offset, bytes);
        touched.filter(|page| self.pages.get(*page).is_none_or(Option::is_none)).count()
    }

    /// Takes room without changing the length.
    pub fn reserve(&mut self, offset: usize, bytes: usize) {
        for page in touched(offset, bytes) {
            self.page(page);
        }
    }

    pub fn write(&mut self, offset: usize, mut bytes: &[u8]) {
        self.len = self.len.max(offset + bytes.len());
        let mut at = offset;
        while !bytes.is_empty() {
            let inside = at % PAGE_BYTES;
            let (now, later) = bytes.split_at((PAGE_BYTES - inside).min(bytes.len()));
            self.page(at / PAGE_BYTES)[inside..inside + now.len()].copy_from_slice(now);
            at += now.len();
            bytes = later;
        }
    }

    /// Fills `buffer` from `offset` on and returns how much there was.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(offset).min(buffer.len());
        let mut rest = &mut buffer[..count];
        let mut at = offset;
        while !rest.is_empty() {
            let inside = at % PAGE_BYTES;
            let (now, later) = rest.split_at_mut((PAGE_BYTES - inside).min(rest.len()));
            match self.pages.get(at / PAGE_BYTES) {
                Some(Some(page)) => now.copy_from_slice(&page[inside..inside + now.len()]),
                _ => now.fill(0),
            }
            at += now.len();
            rest = later;
        }
        count
    }

    pub fn set_len(&mut self, len: usize) {
        if len < self.len {
            self.pages.truncate(len.div_ceil(PAGE_BYTES));
            let inside = len % PAGE_BYTES;
            if inside > 0 && self.pages.get(len / PAGE_BYTES).is_some_and(Option::is_some) {
                self.page(len / PAGE_BYTES)[inside..].fill(0);
            }
        }
        self.len = len;
    }

    fn page(&mut self, number: usize) -> &mut Page {
        if self.pages.len() <= number {
            self.pages.resize(number + 1, None);
        }
        Arc::make_mut(self.pages[number].get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }
}

fn touched(offset: usize, bytes: usize) -> std::ops::Range<usize> {
    offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, Vec<u8>),
        SetLen(usize),
        Reserve(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = 0..3 * PAGE_BYTES;
        prop_oneof![
            (place.clone(), 0..2 * PAGE_BYTES, any::<u8>())
                .prop_map(|(at, n, b)| Step::Write(at, vec![b; n])),
            place.clone().prop_map(Step::SetLen),
            place.prop_map(Step::Reserve),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_image_is_a_vector_of_bytes(steps in proptest::collection::vec(step(), 0..12)) {
            let (mut image, mut bytes) = (Image::default(), Vec::new());
            for step in steps {
                let before = image.clone();
                let unchanged = bytes.clone();
                match step {
                    Step::Write(at, data) => {
                        image.write(at, &data);
                        let end = if data.is_empty() { at } else { at + data.len() };
                        bytes.resize(bytes.len().max(end), 0);
                        bytes[at..at + data.len()].copy_from_slice(&data);
                    }
                    Step::SetLen(len) => {
                        image.set_len(len);
                        bytes.resize(len, 0);
                    }
                    Step::Reserve(at) => image.reserve(at, 100),
                }
                for (image, bytes) in [(&image, &bytes), (&before, &unchanged)] {
                    let mut found = vec![1; bytes.len() + 10];
                    prop_assert_eq!(image.read(0, &mut found), bytes.len());
                    prop_assert_eq!(&found[..bytes.len()], &bytes[..]);
                }
                prop_assert_eq!(image.missing(0, image.len()) + image.pages() >= image.len() / PAGE_BYTES, true);
            }
        }
    }
}
