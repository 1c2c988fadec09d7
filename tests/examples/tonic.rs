use crate::program::{Server, run};

#[test]
fn the_generated_code_is_that_of_the_proto() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tonic");
    let descriptors = protox::compile(["library.proto"], [directory]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure().emit_rerun_if_changed(false).out_dir(out.path()).compile_fds(descriptors).unwrap();
    let generated = std::fs::read_to_string(out.path().join("library.rs")).unwrap();
    let path = format!("{directory}/library.rs");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == generated, "examples/tonic/library.rs is not what library.proto generates: run this test with UPDATE_GENERATED=1");
}

#[tokio::test]
async fn tonic_answers_from_the_caches_of_client_and_server() {
    let server = Server::start("tonic-server").await;
    assert_eq!(
        run("tonic-client", &[&server.url]).await,
        [
            "Emma (call 1): client; fwd=miss; fwd-status=200; stored",
            "Emma (call 1): client; hit",
            "lost: NotFound, call 2 found no such book",
            "lost: NotFound, call 3 found no such book",
            "north 1 (call 4)",
            "north 2 (call 4)",
            "north 3 (call 4)",
            "client; fwd=miss; fwd-status=200; stored; trailers: grpc-status 0",
            "north 1 (call 4)",
            "north 2 (call 4)",
            "north 3 (call 4)",
            "client; hit; trailers: grpc-status 0",
            "client; fwd=bypass; detail=path",
        ]
    );
}
