"""What must hold: rules by property, behaviour by name, chaos by seed."""
