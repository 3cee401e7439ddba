//! HyperLogLog of precision 14 in the derivation of ClickHouse's `uniqCombined64(14)`.

/// Registers of the distinct counter: 2^14, for a standard error of 0.81 %.
///
/// Source: Flajolet et al. 2007, "HyperLogLog", error = 1.04 / sqrt(m).
pub const REGISTERS: usize = 1 << 14;

/// The rank of a hash whose upper 50 bits are all zero.
pub(crate) const RANK_MAX: u8 = 51;

/// Murmur3's 64-bit finaliser: from the keyed hash x of a user to h, and invertible.
#[must_use]
pub const fn mix(x: u64) -> u64 {
    let mut h = x;
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Register and rank of a hash: its low 14 bits, and 1 + trailing zeros of the rest.
pub(crate) const fn rank_of(h: u64) -> (usize, u8) {
    let zeros = ((h >> 14) | (1 << 50)).trailing_zeros();
    ((h & 0x3fff) as usize, (zeros & 0x3f) as u8 + 1)
}

/// All that registers see of a hash, in half of its bytes: the register and, below it, the rank
/// in 6 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(u32);

impl Mark {
    /// Of a hash.
    #[inline]
    pub(crate) const fn of(h: u64) -> Self {
        let (register, rank) = rank_of(h);
        #[expect(clippy::cast_possible_truncation, reason = "14 bits")]
        Self((register as u32) << 6 | rank as u32)
    }

    #[inline]
    const fn register(self) -> usize {
        (self.0 >> 6) as usize & (REGISTERS - 1)
    }

    #[inline]
    const fn rank(self) -> u8 {
        self.0.to_le_bytes()[0] & 0x3f
    }
}

/// 16,384 ranks, one byte each.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Registers(Box<[u8]>);

impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registers({} set)", REGISTERS - self.zeros())
    }
}

impl Registers {
    pub(crate) fn new() -> Self {
        Self(vec![0; REGISTERS].into_boxed_slice())
    }

    pub(crate) fn ranks(&self) -> &[u8] {
        &self.0
    }

    /// Reads the mark's register: a prefetch without `unsafe`.
    pub(crate) fn warm(&self, mark: Mark) {
        std::hint::black_box(self.0[mark.register()]);
    }

    /// True where the mark raised its register.
    #[inline]
    pub(crate) fn mark(&mut self, mark: Mark) -> bool {
        self.raise(mark.register(), mark.rank())
    }

    /// True where the hash raised its register.
    #[inline]
    pub(crate) fn insert(&mut self, h: u64) -> bool {
        let (bucket, rank) = rank_of(h);
        self.raise(bucket, rank)
    }

    /// True where `rank` was above the register's. Without a branch: of many ranks in a row it
    /// would often be guessed wrong.
    #[inline]
    pub(crate) fn raise(&mut self, bucket: usize, rank: u8) -> bool {
        let register = &mut self.0[bucket & (REGISTERS - 1)];
        let raised = *register < rank;
        *register = (*register).max(rank);
        raised
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.0.iter_mut().zip(&other.0) {
            *own = (*own).max(*theirs);
        }
    }

    fn zeros(&self) -> usize {
        self.0.iter().filter(|&&rank| rank == 0).count()
    }

    /// How many registers hold each rank. Four tables hide the store-to-load latency.
    pub(crate) fn histogram(&self) -> [u32; 52] {
        let mut tables = [[0_u32; 64]; 4];
        for four in self.0.as_chunks::<4>().0 {
            for (table, rank) in tables.iter_mut().zip(four) {
                table[usize::from(rank & 63)] += 1;
            }
        }
        std::array::from_fn(|rank| tables.iter().map(|table| table[rank]).sum())
    }

    /// Ertl's improved raw estimator: unbiased over the whole range.
    ///
    /// Source: Ertl 2017, arXiv 1702.01284, algorithm 6 with sigma and tau.
    pub(crate) fn estimate(&self) -> f64 {
        let counts = self.histogram().map(f64::from);
        let m = 16_384.0;
        let mut z = m * tau(1.0 - counts[usize::from(RANK_MAX)] / m);
        for count in counts[1..usize::from(RANK_MAX)].iter().rev() {
            z = 0.5 * (z + count);
        }
        z += m * sigma(counts[0] / m);
        m * m / (2.0 * std::f64::consts::LN_2 * z)
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z <= before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z >= before {
            return z / 3.0;
        }
    }
}
