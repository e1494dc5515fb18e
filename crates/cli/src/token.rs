//! `token`: who may call on the loopback port of the service on this machine.

use crate::args::Token;
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::configuration;
use daemon::{Role, TokenFile};
use serde_json::json;

/// Runs `beamwright token`.
pub(crate) fn token(what: &Token, output: &Output) -> Result<(), Failure> {
    match what {
        Token::Add { name, role, config } => {
            let role: Role = role.parse()?;
            let path = configuration(config)?.token_file();
            let secret = TokenFile::add(&path, name, role)?;
            if output.json {
                let role = role.to_string();
                output.line(json!({ "name": name, "role": role, "token": secret }).to_string());
            } else {
                output.line(secret);
            }
        }
        Token::Remove { name, config } => {
            let path = configuration(config)?.token_file();
            if !TokenFile::remove(&path, name)? {
                let path = path.display();
                return Err(Failure::NotFound(format!(
                    "{path} has no token of {name:?}"
                )));
            }
            output.line(format!("{name} is no longer known"));
        }
        Token::List(config) => {
            let tokens = TokenFile::open(&configuration(config)?.token_file())?.tokens();
            if output.json {
                let one = |t: &daemon::Token| json!({ "name": t.name, "role": t.role.to_string() });
                let all: Vec<_> = tokens.iter().map(one).collect();
                output.line(json!(all).to_string());
            } else {
                for token in tokens {
                    output.line(format!("{} {}", token.name, token.role));
                }
            }
        }
    }
    Ok(())
}
