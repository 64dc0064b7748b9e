//! Tests: programs.

use super::*;

fn shell(script: &str) -> Check {
    Check::Command { run: ["sh", "-c", script].map(String::from).to_vec() }
}

#[tokio::test]
async fn a_command_finds_its_backend_in_the_environment_and_decides_by_status() {
    let ip = Endpoint::Ip("[::1]:5432".parse().unwrap());
    let wanted = "echo $EVENER_POOL $EVENER_BACKEND $EVENER_ADDRESS $EVENER_HOST $EVENER_PORT; exit 3";
    assert_eq!(
        ask(&target(pool(shell(wanted)), ip.clone())).await,
        Err("exit status: 3: db db1 [::1]:5432 ::1 5432".into())
    );
    let unix = Endpoint::Unix("/run/x".into());
    let answer =
        ask(&target(pool(shell("echo \"$EVENER_ADDRESS,$EVENER_HOST,$EVENER_PORT\" >&2; exit 1")), unix)).await;
    assert_eq!(answer, Err("exit status: 1: unix:/run/x,/run/x,".into()));
    assert_eq!(ask(&target(pool(shell("cat; exit 0")), ip.clone())).await, Ok(()));
    assert_eq!(ask(&target(pool(shell("kill -9 $$")), ip.clone())).await, Err("signal: 9 (SIGKILL)".into()));
    let missing = Check::Command { run: vec!["/no/such/program".into()] };
    let answer = ask(&target(pool(missing), ip)).await;
    assert_eq!(answer, Err("cannot start /no/such/program: No such file or directory".into()));
}

#[tokio::test]
async fn a_command_may_write_without_end_and_leave_children_behind() {
    let ip = Endpoint::Ip("127.0.0.1:1".parse().unwrap());
    let much = shell("yes | head -c 3000000; printf 'a\\033[31mb'; exit 1");
    assert_eq!(ask(&target(pool(much), ip.clone())).await, Err("exit status: 1: a\\u{1b}[31mb".into()));
    let started = now();
    assert_eq!(ask(&target(pool(shell("sleep 5 & echo gone; exit 1")), ip)).await, Err("exit status: 1: gone".into()));
    assert!(now() - started < Duration::from_secs(4), "the child that holds the output open is not waited for");
}

#[tokio::test]
async fn a_command_is_killed_at_the_time_out_and_leaves_no_zombie() {
    let process = pid_after_time_out("echo $$ > PID; exec sleep 1000").await;
    wait_until(|| !process.exists()).await;
}

#[tokio::test]
async fn what_a_command_has_started_is_killed_with_it() {
    let process = pid_after_time_out("sleep 1000 & echo $! > PID; wait").await;
    // Its parent is gone too: it may stay a zombie until somebody collects it.
    let is_dead = || std::fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until(is_dead).await;
}

/// Lets a check run into its time-out; the folder in /proc of the process whose number it has written to PID.
async fn pid_after_time_out(script: &str) -> std::path::PathBuf {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let check = shell(&script.replace("PID", &file.display().to_string()));
    let target = target(within(300, check), Endpoint::Ip("127.0.0.1:1".parse().unwrap()));
    assert_eq!(ask(&target).await, Err("the program has not ended within 300ms".into()));
    Path::new("/proc").join(std::fs::read_to_string(&file).unwrap().trim())
}

async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let waiting = timeout(Duration::from_secs(10), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waiting.await.is_ok(), "it has not come");
}
