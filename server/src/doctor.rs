//! x
use anyhow::Result; pub(crate) fn run(_s: &crate::cli::Sources) -> Result<()> { Ok(()) }
