"""Programs that compare, take apart and doubt the method; see README.md. The package never imports them."""

import dvis_d2  # noqa: F401  # before torch, whose threads it tells how to wait
