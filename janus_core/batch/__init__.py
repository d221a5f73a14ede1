"""Work through lists: answers about many pictures, pictures of many prompts, written as they come and resumed where they stopped."""
