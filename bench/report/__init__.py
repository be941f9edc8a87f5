"""Reports for people: tables, figures and pages, all built from records."""
