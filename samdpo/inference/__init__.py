"""From a trained model folder and new images to masks in native geometry."""
