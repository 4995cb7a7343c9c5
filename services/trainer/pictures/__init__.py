"""What the recipes that train on pictures share: data, base models, losses, adapters."""
