"""Robot policies: demonstrations, environments, flow policies that act in them, rollouts and their measures."""
