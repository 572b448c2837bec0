"""Questions to the table: retrieval by user, type and time, SQL, and the Athena API, over one pinned snapshot."""
