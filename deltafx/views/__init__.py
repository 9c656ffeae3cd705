"""What a report looks like: text, tables, pictures, pages. Everything here reads a `Report`, and measures nothing."""
