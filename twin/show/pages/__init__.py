"""The pages of the dashboard, one function ``page()`` each."""
