"""Programs that compare, take apart and doubt the method; see README.md. The package never imports them."""
