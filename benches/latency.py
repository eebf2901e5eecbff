#!/usr/bin/env python3
"""Line written to auth.log → kernel drop effective: minimum, median, p99 in milliseconds (root).

    benches/latency.py [REPETITIONS]

The bar is p99 ≤ 100 ms; the figures are printed, the judgement is the reader's.
"""

import json
import sys

from ironpost.demo import latency


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    result = latency.measure(repetitions)
    print(
        json.dumps(
            {
                "bench": "line_to_drop",
                "unit": "ms",
                "repetitions": repetitions,
                "min": round(result.minimum, 2),
                "median": round(result.median, 2),
                "p99": round(result.p99, 2),
                "max": round(max(result.milliseconds), 2),
                "bar_p99": 100,
            }
        )
    )


if __name__ == "__main__":
    main()
