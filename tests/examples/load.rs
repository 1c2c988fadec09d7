//! The load run, for a moment: that it runs, and finds nothing. `cargo run --release --example load` is the real thing.

use crate::program::example;

#[tokio::test]
async fn a_short_load_run_under_faults_finds_nothing_wrong() {
    let output = example("load").args(["--seconds", "5", "--callers", "8", "--seed", "3"]).output().await.unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim_end().ends_with("\ngood"), "{said}\n{error}");
}
