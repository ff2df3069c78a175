#!/bin/sh
# Hands a study to a Ray cluster, and returns. `ray job logs tinydistilbert-study --follow` shows its lines, `ray job stop` stops it;
# submitted again under another id it goes on. Every path is one that all nodes see.
RECIPE=${RECIPE:-quickstart}
RUNS=${RUNS:-/shared/runs}
exec ray job submit --address "${RAY_DASHBOARD:-http://127.0.0.1:8265}" --no-wait \
  --submission-id "${SUBMISSION:-tinydistilbert-study}" -- \
  tinydistilbert replicate "$RECIPE" --output "$RUNS/$RECIPE" --jobs ray
