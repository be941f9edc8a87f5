"""A task made by a generator: fundus images whose lesions only high resolution shows, and an LPM that knows them."""
