"""Parts of a study in processes of their own, side by side: of this machine, or of many by Ray."""
