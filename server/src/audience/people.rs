//! Who is in the audience and what there is to watch.

use fastrand::Rng;

use super::rhythm;

/// Country, share of the audience, hours ahead of UTC.
const COUNTRIES: [(&str, f64, i8); 18] = [
    ("US", 0.22, -6),
    ("DE", 0.12, 1),
    ("BR", 0.11, -3),
    ("IN", 0.10, 5),
    ("GB", 0.08, 0),
    ("FR", 0.07, 1),
    ("JP", 0.06, 9),
    ("MX", 0.05, -6),
    ("ES", 0.04, 1),
    ("IT", 0.03, 1),
    ("EG", 0.03, 2),
    ("PL", 0.02, 1),
    ("NL", 0.02, 1),
    ("KR", 0.02, 9),
    ("TR", 0.01, 3),
    ("SE", 0.01, 1),
    ("ZA", 0.005, 2),
    ("NZ", 0.005, 12),
];

const DEVICES: [(&str, f64); 5] =
    [("mobile", 0.46), ("tv", 0.24), ("desktop", 0.18), ("tablet", 0.09), ("console", 0.03)];

const TIERS: [(&str, f64); 3] = [("free", 0.58), ("standard", 0.29), ("premium", 0.13)];

const CHANNELS: [(&str, f64); 5] =
    [("organic", 0.41), ("search", 0.24), ("social", 0.18), ("email", 0.10), ("referral", 0.07)];

const COHORTS: [(&str, f64); 2] = [("control", 0.5), ("new-player", 0.5)];

const VERSIONS: [(&str, f64); 4] =
    [("5.2.0", 0.55), ("5.1.3", 0.25), ("5.1.0", 0.13), ("4.9.8", 0.07)];

/// What there is to watch, by category.
pub(crate) const CATEGORIES: [&str; 12] = [
    "drama",
    "comedy",
    "documentary",
    "sports",
    "news",
    "kids",
    "music",
    "action",
    "thriller",
    "anime",
    "reality",
    "classics",
];

/// Titles a category has.
const TITLES_PER_CATEGORY: u32 = 80;

/// First words of titles; with as many second words as there are, every pair is one title.
const FIRST_WORDS: [&str; 40] = [
    "silent", "golden", "hidden", "last", "long", "broken", "northern", "midnight", "second",
    "paper", "burning", "distant", "little", "royal", "frozen", "crimson", "lost", "electric",
    "quiet", "wild", "hollow", "silver", "open", "restless", "secret", "endless", "rising", "blue",
    "salt", "stolen", "early", "glass", "winter", "public", "velvet", "savage", "lucky", "iron",
    "perfect", "common",
];

/// Second words of titles.
const SECOND_WORDS: [&str; 24] = [
    "river",
    "harbour",
    "city",
    "summer",
    "garden",
    "letters",
    "kingdom",
    "voices",
    "crossing",
    "kitchen",
    "detective",
    "season",
    "mountain",
    "orchestra",
    "neighbours",
    "empire",
    "lights",
    "island",
    "witness",
    "stories",
    "hearts",
    "train",
    "academy",
    "league",
];

/// One person. Everything follows from the number, so nobody has to be kept in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Person {
    pub(crate) number: u32,
    pub(crate) country: &'static str,
    pub(crate) utc_offset_h: i8,
    pub(crate) device: &'static str,
    pub(crate) tier: &'static str,
    pub(crate) channel: &'static str,
    pub(crate) cohort: &'static str,
    pub(crate) version: &'static str,
    pub(crate) favourites: [u8; 3],
}

/// The audience: draws people and content.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    users: u32,
    seed: u64,
}

impl Audience {
    pub(crate) const fn new(users: u32, seed: u64) -> Self {
        Self { users, seed }
    }

    /// The person of that number.
    pub(crate) fn person(&self, number: u32) -> Person {
        let mut rng = Rng::with_seed(self.seed ^ (u64::from(number) << 20) ^ 0x9e37_79b9_7f4a_7c15);
        rng.u64(..);
        let (country, _, utc_offset_h) = *pick(&COUNTRIES, |country| country.1, &mut rng);
        let category = |rng: &mut Rng| {
            // The head of the list is liked more than its tail.
            let draw = rng.f64() * rng.f64();
            nth(CATEGORIES.len(), draw)
        };
        Person {
            number,
            country,
            utc_offset_h,
            device: pick(&DEVICES, |device| device.1, &mut rng).0,
            tier: pick(&TIERS, |tier| tier.1, &mut rng).0,
            channel: pick(&CHANNELS, |channel| channel.1, &mut rng).0,
            cohort: pick(&COHORTS, |cohort| cohort.1, &mut rng).0,
            version: pick(&VERSIONS, |version| version.1, &mut rng).0,
            favourites: [category(&mut rng), category(&mut rng), category(&mut rng)],
        }
    }

    /// Someone who comes at this moment: regulars more often than strangers, those whose
    /// evening it is more often than those who sleep.
    pub(crate) fn arrival(&self, time_ms: i64, rng: &mut Rng) -> Person {
        loop {
            // A fifth of the people are regulars, who make six visits of ten.
            let draw = rng.f64();
            let draw = if rng.f64() < 0.5 { draw * 0.2 } else { draw };
            let number = (draw * f64::from(self.users)).floor();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 <= draw < 1, so the number is below a u32"
            )]
            let person = self.person((number as u32).min(self.users - 1));
            if rng.f64() * 2.5 < rhythm(time_ms, person.utc_offset_h) {
                return person;
            }
        }
    }

    /// Something this person would watch: (category index, title number).
    pub(crate) fn content(person: &Person, rng: &mut Rng) -> (u8, u32) {
        let category = if rng.f64() < 0.75 {
            person.favourites[rng.usize(..3)]
        } else {
            nth(CATEGORIES.len(), rng.f64())
        };
        // Zipf with exponent about 1, by inversion: n^u is log-uniform over 1..n.
        let title = f64::from(TITLES_PER_CATEGORY).powf(rng.f64()).floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1 <= title <= the number of titles"
        )]
        (category, title as u32)
    }
}

/// What the `number`th title of a category is called, from 1 up: two words, no pair twice.
pub(crate) fn title(category: u8, number: u32) -> (&'static str, &'static str) {
    let index = usize::from(category) * TITLES_PER_CATEGORY as usize + number as usize - 1;
    let (firsts, seconds) = (FIRST_WORDS.len(), SECOND_WORDS.len());
    // Neighbours, and the leaders of the categories, differ in both words.
    let first = (index + index / firsts * 13) % firsts;
    (FIRST_WORDS[first], SECOND_WORDS[(index / firsts * 5 + first * 7) % seconds])
}

/// Index below `len` at `draw` in 0..1.
fn nth(len: usize, draw: f64) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "lists here have a dozen entries"
    )]
    let index = (draw * len as f64) as usize;
    u8::try_from(index.min(len - 1)).unwrap_or(0)
}

/// One of `choices` by weight.
fn pick<'a, T>(choices: &'a [T], weight: impl Fn(&T) -> f64, rng: &mut Rng) -> &'a T {
    let total: f64 = choices.iter().map(&weight).sum();
    let mut left = rng.f64() * total;
    for choice in choices {
        left -= weight(choice);
        if left < 0.0 {
            return choice;
        }
    }
    &choices[choices.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_always_the_same() {
        let audience = Audience::new(1000, 7);
        let (one, two) = (audience.person(42), audience.person(42));
        assert_eq!(
            (one.country, one.device, one.favourites),
            (two.country, two.device, two.favourites)
        );
    }

    #[test]
    fn no_two_titles_share_a_name() {
        let names: std::collections::HashSet<_> = (0..12)
            .flat_map(|category| {
                (1..=TITLES_PER_CATEGORY).map(move |number| title(category, number))
            })
            .collect();
        assert_eq!(names.len(), CATEGORIES.len() * 80);
    }

    #[test]
    fn a_fifth_of_the_people_make_most_visits_and_nobody_never_leaves() {
        let audience = Audience::new(1000, 7);
        let mut rng = Rng::with_seed(2);
        let mut visits = vec![0_u32; 1000];
        for minute in 0..20_000 {
            visits[audience.arrival(minute * 60_000, &mut rng).number as usize] += 1;
        }
        let regulars: u32 = visits[..200].iter().sum();
        assert!((10_500..13_500).contains(&regulars), "{regulars} of 20,000 visits");
        // Who came far more often than the rest would hold one session open for days.
        assert!(visits.iter().max() < Some(&200), "{:?} visits of one person", visits.iter().max());
    }

    #[test]
    fn the_evening_brings_its_country() {
        let audience = Audience::new(5000, 7);
        let mut rng = Rng::with_seed(1);
        // 20:00 in Tokyo is 11:00 UTC.
        let japanese_at = |hour: i64, rng: &mut Rng| {
            (0..4000).filter(|_| audience.arrival(hour * 3_600_000, rng).country == "JP").count()
        };
        let (evening, night) = (japanese_at(11, &mut rng), japanese_at(18, &mut rng));
        assert!(evening > 2 * night, "{evening} against {night}");
    }
}
