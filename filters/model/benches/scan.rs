//! The time to read the body of a model request.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::{Guard, Scan};
use policy::Egress;
use std::hint::black_box;

fn read(guard: &Guard, body: &[u8]) -> bool {
    let mut scan = Scan::new(guard.clone());
    body.chunks(64 << 10).all(|part| scan.feed(black_box(part)).is_ok()) && scan.finish().is_ok()
}

fn bench(c: &mut Criterion) {
    let egress = Egress::default();
    let guard = Guard { credential: "x".into(), also: [].into(), egress, own: Vec::new(), except: Vec::new() };
    let image = format!(r#"{{"messages":[{{"content":[{{"source":{{"data":"{}"}}}}]}}]}}"#, "iVBORw0K".repeat(1 << 20));
    let line =
        r#"{"role":"user","content":[{"type":"text","text":"fn main() {\n    println!(\"hello, world\");\n}\n"}]},"#;
    let chat = format!(r#"{{"messages":[{}{{}}]}}"#, line.repeat(40_000));
    for (name, body) in [("10 MB of base64", image), ("a chat of short messages", chat)] {
        assert!(read(&guard, body.as_bytes()), "{name}");
        let mut group = c.benchmark_group("scan");
        group.throughput(Throughput::Bytes(body.len() as u64)).sample_size(10);
        group.bench_function(name, |b| b.iter(|| read(&guard, body.as_bytes())));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
