//! The bytes of aggregates: variable-length integers, little endian.

/// Bytes that are no aggregate: cut short, out of order or out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("aggregate bytes are damaged: {0}")]
pub struct AggregateDamaged(pub(crate) &'static str);

/// Appends `value`, seven bits a byte, least significant first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends `value` zigzagged, so that small negative numbers stay short.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned());
}

/// Reads what the functions above wrote.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes are left.
    pub(crate) const fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, AggregateDamaged> {
        let (&first, rest) = self.bytes.split_first().ok_or(AggregateDamaged("cut short"))?;
        self.bytes = rest;
        Ok(first)
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], AggregateDamaged> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(AggregateDamaged("cut short"))?;
        self.bytes = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, AggregateDamaged> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| AggregateDamaged("cut short"))?))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, AggregateDamaged> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(AggregateDamaged("integer over 64 bits"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(AggregateDamaged("integer over 64 bits"))
    }

    /// A gap below 128 and the byte after it, as most of a sparse form are.
    #[inline]
    pub(crate) fn short_gap(&mut self) -> Option<(u8, u8)> {
        match self.bytes {
            &[gap, after, ref rest @ ..] if gap < 0x80 => {
                self.bytes = rest;
                Some((gap, after))
            }
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn signed(&mut self) -> Result<i64, AggregateDamaged> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A count of things of at least one byte each: never more than the bytes that are left.
    pub(crate) fn count(&mut self) -> Result<usize, AggregateDamaged> {
        let count = usize::try_from(self.varint()?)
            .map_err(|_| AggregateDamaged("count over the address space"))?;
        if count > self.bytes.len() {
            return Err(AggregateDamaged("count over the bytes that follow"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back() {
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN, 1 << 40] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(Reader::new(&out).signed(), Ok(value));
        }
    }

    #[test]
    fn an_integer_of_eleven_bytes_is_refused() {
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
    }
}
