#!/usr/bin/env bash
# A swarm on one GPU: the demo, then a 150 M model with two peers. Prints a report and log tails.
set -u
out=${OUT:-$(mktemp -d)}
python=${PYTHON:-python3}
$python -m farflung demo --rounds 12 --no-solo --out "$out/demo" --report "$out/demo.json" || tail -n 5 "$out"/demo/*.log
cat > "$out/run.toml" <<'TOML'
name = "gpu"
[model]
preset = "150m"
[data]
seq_len = 1024
[inner]
batch_rows = 16
warmup_steps = 10
muon_lr = 0.01
lr = 1e-3
[outer]
rounds = 6
inner_steps = 20
[swarm]
start_peers = 2
TOML
FARFLUNG_HOME=$out/h $python -m farflung host "$out/run.toml" --bind 127.0.0.1:0 >"$out/host.log" 2>&1 &
host=$!
for _ in $(seq 600); do [ -f "$out/h/gpu/host/invite.txt" ] && break; sleep 0.2; done
for p in 1 2; do
  FARFLUNG_HOME=$out/p$p $python -m farflung join "$(cat "$out/h/gpu/host/invite.txt")" --name "p$p" >"$out/p$p.log" 2>&1 &
done
wait $host
tail -n 12 "$out/host.log" "$out/p1.log" "$out/p1/gpu/peer/trainer.log"
$python -m farflung verify "$out/h/gpu"
rm -rf "$out/h" "$out/p1" "$out/p2" "$out/demo"
