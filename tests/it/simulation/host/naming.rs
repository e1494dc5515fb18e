//! Words for the trace.

use engine::Command;
use engine::core::Action;

pub(super) fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Create(_) => "create",
        Command::Arm(_) => "arm",
        Command::Start(_) => "start",
        Command::Pause(_) => "pause",
        Command::Resume(_) => "resume",
        Command::Abort(_) => "abort",
        Command::Blank => "blank",
        Command::ClearTrip(_) => "clear trip",
        Command::Grant(_) => "grant",
        Command::Column(_) => "column",
        Command::Decide(_) => "decide",
        Command::Shutdown => "shutdown",
    }
}

pub(super) fn end_name(end: &engine::EndReason) -> &'static str {
    use engine::EndReason as E;
    match end {
        E::Complete => "complete",
        E::LeftOut { .. } => "left out",
        E::Stopped { .. } => "stopped",
        E::DoseLimit { .. } => "dose limit",
        E::DetachedTime => "detached time",
        E::Requested => "requested",
        E::Trip { .. } => "trip",
        E::SessionLost => "session lost",
        E::Slip { .. } => "slip",
        E::Refused { .. } => "refused",
        E::Decision { .. } => "decision",
        E::Late => "late",
        E::Recording { .. } => "recording",
        E::Panic { .. } => "panic",
    }
}

/// An action for the trace, without its data.
pub(super) fn text_of(action: &Action) -> String {
    match action {
        Action::Submit { positions, .. } => {
            format!("Submit {}+{}", positions.first_position, positions.len())
        }
        Action::Block { block, .. } => format!("Block {}+{}", block.first_position, block.len()),
        Action::Open(prepared) => format!("Open {}", prepared.id),
        Action::Arm(_) => "Arm".into(),
        other => format!("{other:?}"),
    }
}
