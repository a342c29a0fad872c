"""What people look at: charts, the report, the dashboard. Draws what a run says; computes nothing that a run should say."""
