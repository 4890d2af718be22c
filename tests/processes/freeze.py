"""Importing this takes everything that is loaded by now out of the garbage collector's sight.

The fork server loads it last. A training ends with two full collections, and each of them would spend half a second on
objects of torch and transformers that never die.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
