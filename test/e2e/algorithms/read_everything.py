"""Read every file below the folders given; write which of them can't be read."""

import json
import os
import pathlib
import sys

read, failed = 0, {}
for top in sys.argv[1:]:
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not os.path.isfile(path):
                continue
            try:
                with open(path, "rb") as f:
                    while f.read(1 << 20):
                        pass
                read += 1
            except OSError as e:
                failed[path] = e.errno
pathlib.Path("results/read.json").write_text(json.dumps({"read": read, "failed": failed}))
