//! `certs`: certificates of a laboratory.

use crate::args::Certs;
use crate::failure::Failure;
use crate::output::Output;
use daemon::certs::{self, Issued};
use domain::MonotonicClock;
use serde_json::json;

/// Runs `beamwright certs`.
pub(crate) fn certs(what: &Certs, output: &Output) -> Result<(), Failure> {
    let clock = MonotonicClock::new();
    match what {
        Certs::Init { directory, host } => {
            let issued = certs::init(directory, host, &clock)?;
            let ca = directory.join("ca.pem");
            if output.json {
                show_json(output, &issued, &ca);
                return Ok(());
            }
            output.line("[service.tls]");
            output.line(format!("cert = {:?}", issued.cert));
            output.line(format!("key = {:?}", issued.key));
            output.line(format!("client_ca = {ca:?}"));
        }
        Certs::Issue { directory, name } => {
            let issued = certs::issue(directory, name, &clock)?;
            let ca = directory.join("ca.pem");
            if output.json {
                show_json(output, &issued, &ca);
                return Ok(());
            }
            output.line("[[access.identities]]");
            output.line(format!("name = {name:?}"));
            output.line("role = \"operator\"");
            let (cert, key) = (issued.cert.display(), issued.key.display());
            output.line(format!(
                "# the client: --ca {} --cert {cert} --key {key}",
                ca.display()
            ));
        }
    }
    Ok(())
}

fn show_json(output: &Output, issued: &Issued, ca: &std::path::Path) {
    let document = json!({ "cert": issued.cert, "key": issued.key, "ca": ca });
    output.line(document.to_string());
}
