"""A plan's option as what starts it: commands, a compose file, Kubernetes manifests, and the alerts that watch it."""
