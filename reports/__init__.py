"""What results look like to people: tables, Markdown, reports."""
