//! What shells and people read: completions that complete, and a manual page without a flaw.

#![allow(clippy::unwrap_used)] // everything here is a test

mod harness;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use harness::{evener, require};

fn printed(arguments: &[&str]) -> String {
    let output = evener(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn completions_are_sound_in_every_shell_that_is_here() {
    for (shell, program) in [("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("doctor") && script.contains("--deadline") || shell == "fish", "{script}");
        if harness::find(program, &[]).is_some() {
            let output = fed(Command::new(program).args(["-n", "/dev/stdin"]), &script);
            assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        }
    }
    assert_eq!(evener(&["completions", "csh"]).status.code(), Some(2));
    assert_eq!(evener(&["completions"]).status.code(), Some(2));
}

/// What bash offers for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let list: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (last, count) = (words.len() - 1, words.len());
    let before = if count > 1 { words[last - 1] } else { "" };
    let script = format!(
        "{}\nCOMP_WORDS=({})\nCOMP_CWORD={last}\nCOMP_TYPE=9\n_evener evener '{}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        printed(&["completions", "bash"]),
        list.join(" "),
        words[last],
    );
    let output = fed(&mut Command::new("bash"), &script);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_verbs_words_and_options() {
    if !require("bash_completes_verbs_words_and_options", &["bash"]) {
        return;
    }
    assert_eq!(offered(&["evener", "doc"]), ["doctor"]);
    assert_eq!(offered(&["evener", "doctor", "--js"]), ["--json"]);
    assert_eq!(offered(&["evener", "drain", "--dead"]), ["--deadline"]);
    assert!(offered(&["evener", "completions", "b"]).contains(&"bash".to_owned()));
    let verbs = offered(&["evener", ""]);
    for verb in ["run", "check", "status", "backend", "reload", "doctor", "schema", "man"] {
        assert!(verbs.contains(&verb.to_owned()), "no {verb} in {verbs:?}");
    }
}

#[test]
fn the_manual_page_has_every_verb_and_its_sections() {
    let page = printed(&["man"]);
    for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "VERBS", "FILES", "SIGNALS"] {
        assert!(page.contains(&format!(".SH {section}\n")), "no {section}");
    }
    for section in ["EXIT STATUS", "SEE ALSO"] {
        assert!(page.contains(&format!(".SH \"{section}\"\n")), "no {section}");
    }
    let help = printed(&["--help"]);
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let verbs: Vec<&str> =
        verbs.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() > 10, "{help}");
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        assert!(page.contains(&format!("evener {verb}")), "no {verb}");
    }
    // The hyphen of an option is one that can be copied.
    assert!(page.contains("\\-\\-deadline"), "{page}");
}

#[test]
fn the_manual_page_is_set_without_a_warning() {
    if !require("the_manual_page_is_set_without_a_warning", &["groff", "mandoc"]) {
        return;
    }
    let page = printed(&["man"]);
    let set = fed(Command::new("groff").args(["-man", "-Tutf8", "-ww", "-rF0"]), &page);
    assert!(set.status.success() && set.stderr.is_empty(), "{}", String::from_utf8_lossy(&set.stderr));
    let text = String::from_utf8(set.stdout).unwrap();
    assert!(text.contains("SIGTERM") && text.contains("drain"), "{text}");
    let linted = fed(Command::new("mandoc").args(["-Tlint", "-Wwarning"]), &page);
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
}
