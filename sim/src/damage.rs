//! A cold id run goes bad while the house runs: its hours close, and nothing counts twice.

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use crate::client::Client;
use crate::house::{House, Knobs};
use crate::mutant::Mutant;

/// Sends events, lets their ids go cold, flips a bit in every run, and says everything again.
/// Events may be late now, but none may count a second time.
///
/// # Errors
///
/// Where one does.
pub fn never_twice(seed: u64, mutant: Option<Mutant>) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let mut knobs = Knobs::roll(&mut rng);
    knobs.stream.checkpoint_interval_ms = 1;
    knobs.stream.fold.hot_ids_max = 1;
    let mut house = House::new(seed, knobs, mutant);
    house.start()?;
    let mut client = Client::default();
    for _ in 0..6 {
        client.send(&house, &mut rng, 30);
        house.settle()?;
    }
    let counted = house.pin()?.counters().unique;
    ensure!(counted > 0, "nothing was counted");
    let runs: Vec<String> =
        house.disk.paths().into_iter().filter(|path| path.ends_with(".ids")).collect();
    ensure!(!runs.is_empty(), "no id went cold");
    for run in &runs {
        let bytes = house.disk.len_of(run).context("a listed file is there")?;
        house.disk.flip_bit(run, rng.u64(0..bytes));
    }
    client.repeat_everything(&house, &mut rng);
    house.settle()?;
    let counters = house.pin()?.counters();
    ensure!(counters.residual() == 0, "N3: residual in {counters:?}");
    ensure!(
        counters.unique == counted,
        "N2: {} events count twice beside a damaged id run",
        counters.unique.saturating_sub(counted)
    );
    Ok(())
}
