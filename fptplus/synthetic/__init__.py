"""A generated task: fundus images whose lesions show only at high resolution, and a model pre-trained to see them."""
