//! Bad input: one line per case in `bad_input/*.txt`. Every one ends within seconds with a code from 2 to 5, names field,
//! value and allowed range, moves no beam and leaves nothing behind.

use crate::process::{Bench, Ended, write_npy};

/// A refusal that is expected: `arguments => exit code: words of the message`, between bars (field, value, range).
struct Case<'a> {
    arguments: Vec<&'a str>,
    code: i32,
    words: Vec<&'a str>,
}

impl<'a> Case<'a> {
    fn parse(line: &'a str) -> Self {
        let (arguments, refusal) = line.split_once(" => ").unwrap();
        let (code, words) = refusal.split_once(": ").unwrap();
        Self {
            arguments: arguments.split_whitespace().collect(),
            code: code.parse().unwrap(),
            words: words.split(" | ").collect(),
        }
    }

    /// What is wrong with how it was refused, in words.
    fn wrong(&self, ended: &Ended) -> Option<String> {
        let text = &ended.stderr;
        let missing: Vec<_> = self.words.iter().filter(|w| !text.contains(**w)).collect();
        let fits =
            ended.code == Some(self.code) && missing.is_empty() && !text.contains("panicked");
        let Self { arguments, .. } = self;
        (!fits).then(|| {
            let code = ended.code;
            format!("{arguments:?}: code {code:?}, without {missing:?}: {text}")
        })
    }
}

fn check(ended: &Ended, line: &str) {
    assert_eq!(Case::parse(line).wrong(ended), None);
}

/// Inputs of the cases, beside the working directory.
fn inputs(bench: &Bench) {
    let work = bench.path("");
    write_npy(&work.join("s.npy"), &[64, 64], &[0.1; 64 * 64]);
    write_npy(&work.join("cube.npy"), &[8, 8, 8], &[0.1; 512]);
    let mut holey = [0.1; 64 * 64];
    holey[64 * 3 + 5] = f32::NAN;
    write_npy(&work.join("nan.npy"), &[64, 64], &holey);
    let whole = std::fs::read(work.join("s.npy")).unwrap();
    std::fs::write(work.join("torn.npy"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(work.join("text.png"), "no picture").unwrap();
    std::fs::write(work.join("far.csv"), "row,col\n3,4\n3,640\n").unwrap();
    std::fs::create_dir(work.join("spectra")).unwrap();
    let meta = r#"{"kind": "spectrum_image", "name": "x", "detector": "eels"}"#;
    std::fs::write(work.join("spectra/meta.json"), meta).unwrap();
    std::fs::copy(work.join("cube.npy"), work.join("spectra/data.npy")).unwrap();
    std::fs::create_dir(work.join("folder.zspy")).unwrap();
    let config = |name: &str, text: &str| std::fs::write(work.join(name), text).unwrap();
    config("unknown.toml", "[service]\nlistn = \"127.0.0.1:0\"\n");
    config("watchdog.toml", "[engine]\nwatchdog_ms = 2000\n");
    config("torn.toml", "[service\n");
    config("open.toml", "[service]\nlisten = \"0.0.0.0:7410\"\n");
    config("proc.toml", "[store]\ndirectory = \"/proc/beamwright\"\n");
    config("instrument.toml", "[probe]\ncurrent = 3\n");
}

#[test]
fn bad_input_of_offline_verbs_is_refused_by_name() {
    let bench = Bench::new();
    inputs(&bench);
    let mut all_wrong = Vec::new();
    for line in include_str!("bad_input/offline.txt").lines() {
        let case = Case::parse(line);
        all_wrong.extend(case.wrong(&bench.run(&case.arguments)));
        if !bench.left_behind().is_empty() {
            all_wrong.push(format!("{line} left {:?}", bench.left_behind()));
            break;
        }
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
}

#[test]
fn a_refused_value_is_data_for_a_program() {
    let bench = Bench::new();
    inputs(&bench);
    let ended = bench.run(&["simulate", "../s.npy", "--fraction", "1.5", "--json"]);
    let invalid = &ended.json()["invalid"];
    assert_eq!(
        (&invalid["field"], &invalid["value"], &invalid["allowed"]),
        (
            &"fraction".into(),
            &"1.5".into(),
            &"above 0, at most 1".into()
        )
    );
}

#[test]
fn bad_input_to_a_service_is_refused_by_name_before_the_beam_moves() {
    let bench = Bench::new();
    let served = bench.serve(&[]);
    let mut all_wrong = Vec::new();
    for line in include_str!("bad_input/service.txt").lines() {
        let case = Case::parse(line);
        let arguments = [&case.arguments[..], &["--server", &served.url]].concat();
        all_wrong.extend(case.wrong(&bench.run(&arguments)));
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
    assert!(bench.left_behind().is_empty());
    let ask = |verb: &str| bench.run(&[verb, "--server", &served.url, "--json"]).json();
    assert_eq!(ask("list")["acquisitions"].as_array().unwrap().len(), 0);
    let status = ask("status");
    assert_eq!(status["status"]["positions"], 0, "the beam never moved");
    assert_eq!(status["status"]["lease"]["held"], false);
    assert_eq!(served.terminate().code, Some(0));
}

#[test]
fn a_busy_port_and_a_silent_controller_are_named() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = bench.run(&["serve", "--listen", &address]);
    check(
        &busy,
        &format!("serve => 2: service.listen | {address} | in use"),
    );
    // Nobody accepts there: the connection is made and nothing is ever said.
    let config = bench.path("silent.toml");
    let text = format!(
        "[store]\ndirectory = \"{}\"\n[controller]\nuri = \"tcp://{address}\"\nopen_timeout_ms = 200\n",
        bench.path("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--config",
        config.to_str().unwrap(),
    ];
    let silent = bench.run(&serve);
    check(&silent, "serve --config => 3: controller");
    drop(taken);
    let gone = bench.run(&serve);
    check(&gone, &format!("serve --config => 3: {address} | refused"));
    let unreachable = bench.run(&["status", "--server", &format!("http://{address}")]);
    check(
        &unreachable,
        &format!("status => 3: {address} | cannot be reached"),
    );
}
