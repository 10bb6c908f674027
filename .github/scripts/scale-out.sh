#!/usr/bin/env bash
# Load goes up and down again in a cluster with KEDA: prints time, lag and workers, and fails where a sentence is lost, or
# where the workers do not follow. For the namespace of k8s/overlays/dev.
set -euo pipefail

namespace=sentence-streams
sentences=${1:-300000}
run() { kubectl -n "$namespace" exec deploy/sentence-streams-score -- sentence-streams "$@"; }
workers() { kubectl -n "$namespace" get deployment sentence-streams-worker -o jsonpath='{.status.readyReplicas}'; }
count() { run consume embeddings --format jsonl 2>/dev/null | wc -l; }

kubectl -n kafka rollout status statefulset/kafka --timeout=300s
kubectl -n "$namespace" wait --for=condition=complete job/sentence-streams-provision --timeout=300s
for name in worker score bridge; do
  kubectl -n "$namespace" rollout status "deployment/sentence-streams-$name" --timeout=300s
done

before=$(count)
seq "$sentences" | sed 's/^/Sentence number /' \
  | kubectl -n "$namespace" exec -i deploy/sentence-streams-score -- sentence-streams produce --json -

most=0 started=$SECONDS
printf '%8s %10s %8s\n' seconds answered workers
while :; do
  answered=$(($(count) - before)) now=$(workers)
  printf '%8d %10d %8d\n' $((SECONDS - started)) "$answered" "${now:-0}"
  if ((${now:-0} > most)); then most=$now; fi
  if ((answered >= sentences)) && ((${now:-0} == 1)); then break; fi
  if ((SECONDS - started > 1800)); then echo "not done after half an hour" >&2; exit 1; fi
  sleep 15
done
if ((answered != sentences)); then echo "$answered answers to $sentences sentences" >&2; exit 1; fi
if ((most < 2)); then echo "nobody helped the one worker" >&2; exit 1; fi
echo "$sentences sentences, all answered; up to $most workers, and back to 1"
