"""Raw load: clients and workers in C, so that what is measured is the broker between them."""
