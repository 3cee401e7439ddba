//! Near names: what a misspelt name may have meant.

/// Names offered at most.
const NEAR_MAX: usize = 3;
/// Characters of a misspelt name that are looked at.
const NAME_CHARS_MAX: usize = 64;

/// Up to three of `known` that are a few letters away from `name` or contain it, nearest first.
pub(crate) fn near_names<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let name: Vec<char> = name.chars().take(NAME_CHARS_MAX).flat_map(char::to_lowercase).collect();
    let text: String = name.iter().collect();
    let far = (name.len() / 3).max(2);
    let mut near: Vec<(usize, &str)> = known
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().take(NAME_CHARS_MAX).collect();
            let distance = distance(&name, &letters);
            let contains =
                name.len() >= 3 && (candidate.contains(&text) || text.contains(candidate));
            (distance <= far || contains).then_some((distance, candidate))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().take(NEAR_MAX).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Letters to insert, delete or replace to make one of the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_a_stranger_is_not() {
        let known = ["events", "unique_users", "country"];
        assert_eq!(near_names("evnts", known.into_iter()), ["events"]);
        assert_eq!(near_names("users", known.into_iter()), ["unique_users"]);
        assert_eq!(near_names("zzzzzz", known.into_iter()), Vec::<String>::new());
    }
}
