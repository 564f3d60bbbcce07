"""Ask a running daemon for the classes of a graph's test nodes, with short and long deadlines in turn.

    python ask_nodes.py cora.npz [SHORT_MS LONG_MS]

The daemon serves what `adaphi plan graph --graph cora.npz -o FOLDER` has left (docs/scaling/graph.md).
"""

import sys
from collections import Counter

import numpy as np

from adaphi import Client
from adaphi.errors import RequestError

if len(sys.argv) < 2:
    sys.exit(__doc__)
graph = np.load(sys.argv[1])
deadlines_ms = [float(text) for text in sys.argv[2:4]] or [12.0, 60.0]
counts: Counter[tuple[float, str]] = Counter()
with Client() as client:
    for place, node in enumerate(graph["test_idx"].astype(np.int64)):
        deadline_ms = deadlines_ms[place % 2]
        try:
            answer = client.infer(node[None], deadline_ms=deadline_ms, raw=True)
        except RequestError as error:
            counts[deadline_ms, error.code] += 1
            continue
        right = int(answer.output.argmax()) == graph["labels"][node]
        counts[deadline_ms, f"φ={answer.phi}"] += 1
        counts[deadline_ms, "right"] += right
        counts[deadline_ms, "late"] += answer.late
for (deadline_ms, what), count in sorted(counts.items()):
    print(f"{deadline_ms:g} ms: {what}: {count}")
