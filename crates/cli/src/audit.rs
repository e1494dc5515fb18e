//! `audit`: the log of who commanded what.

use crate::args::Audit;
use crate::failure::Failure;
use crate::output::Output;
use daemon::audit;
use serde_json::json;

/// Runs `beamwright audit`.
pub(crate) fn audit(what: &Audit, output: &Output) -> Result<(), Failure> {
    let Audit::Verify { path } = what;
    let whole = audit::verify(path).map_err(|broken| Failure::NotFound(broken.to_string()))?;
    if output.json {
        output.line(json!({ "lines": whole.n_lines, "head": whole.head }).to_string());
    } else {
        output.line(format!(
            "{} lines, all as written; newest hash {}",
            whole.n_lines, whole.head
        ));
    }
    Ok(())
}
